"""Every detector by its catalogue id: adding one takes its file and one line here."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import msgspec

from detectors import artefact
from detectors.detector import DESCRIPTION, WEIGHTS, Description, Detector
from schemas.errors import ArtefactError, DataError
from schemas.nearest import nearest

CATALOGUE: dict[str, str] = {
    "ae": "detectors.ae:Autoencoder",
    "ae1svm": "detectors.ae1svm:JointOcSvm",
    "ae_ocsvm": "detectors.ae_ocsvm:AutoencoderOcSvm",
    "aehe": "detectors.aehe:EventEmbedding",
    "alad": "detectors.alad:Alad",
    "alocc": "detectors.alocc:Alocc",
    "anogan": "detectors.anogan:AnoGan",
    "ape": "detectors.ape:PairwiseEmbedding",
    "cauchy": "detectors.cauchy:CauchyCombination",
    "cnn_ae": "detectors.cnn_ae:CnnAutoencoder",
    "contract_ae": "detectors.contract_ae:ContractiveAutoencoder",
    "convlstm_ae": "detectors.convlstm_ae:ConvLstmAutoencoder",
    "count_vector": "detectors.count_vector:CountVector",
    "crossfeat": "detectors.crossfeat:CrossFeature",
    "dagmm": "detectors.dagmm:Dagmm",
    "dec": "detectors.dec:DeepEmbeddedClustering",
    "deep_cluster": "detectors.deep_cluster:DeepClustering",
    "deepoc": "detectors.deepoc:DeepOneClass",
    "denoise_ae": "detectors.denoise_ae:DenoisingAutoencoder",
    "devnet": "detectors.devnet:DevNet",
    "e3outlier": "detectors.e3outlier:E3Outlier",
    "ebgan": "detectors.ebgan:BidirectionalGan",
    "ecod": "detectors.ecod:EmpiricalTails",
    "fanogan": "detectors.fanogan:FastAnoGan",
    "fencegan": "detectors.fencegan:FenceGan",
    "ffp": "detectors.ffp:FutureFramePrediction",
    "ganomaly": "detectors.ganomaly:Ganomaly",
    "gcn_ae": "detectors.gcn_ae:GraphConvolutionalAutoencoder",
    "gmvae": "detectors.gmvae:MixtureVae",
    "gt": "detectors.gt:GeometricTransformations",
    "hst": "detectors.hst:HalfSpaceTrees",
    "icl": "detectors.icl:InternalContrast",
    "iforest": "detectors.iforest:IsolationForest",
    "kmeans_ad": "detectors.kmeans_ad:KMeans",
    "knn": "detectors.knn:NearestNeighbours",
    "loda": "detectors.loda:Loda",
    "lsa": "detectors.lsa:LatentAutoregression",
    "lstm_ae": "detectors.lstm_ae:LstmAutoencoder",
    "memstream": "detectors.memstream:MemStream",
    "mil": "detectors.mil:MultipleInstanceRanking",
    "mogaal": "detectors.mogaal:MultipleMakers",
    "nce": "detectors.nce:EventNce",
    "netwalk": "detectors.netwalk:NetWalk",
    "oada": "detectors.oada:DummyAnomalies",
    "ocan": "detectors.ocan:Ocan",
    "ocgan": "detectors.ocgan:Ocgan",
    "ocnn": "detectors.ocnn:OneClassNeuralNetwork",
    "online_iforest": "detectors.online_iforest:OnlineIsolationForest",
    "pca": "detectors.pca:PrincipalComponents",
    "poly": "detectors.poly:LocalPolynomial",
    "prenet": "detectors.prenet:PReNet",
    "pup": "detectors.pup:RewardInference",
    "rae_ens": "detectors.rae_ens:RecurrentEnsemble",
    "randnet": "detectors.randnet:RandNet",
    "rcf": "detectors.rcf:RandomCutForest",
    "rda": "detectors.rda:RobustAutoencoder",
    "rdp": "detectors.rdp:RandomDistancePrediction",
    "repen": "detectors.repen:Repen",
    "replicator": "detectors.replicator:Replicator",
    "sad": "detectors.sad:DeepSad",
    "sdor": "detectors.sdor:OrdinalRegression",
    "sparse_ae": "detectors.sparse_ae:SparseAutoencoder",
    "svdd": "detectors.svdd:DeepSvdd",
    "transfer": "detectors.transfer:Transfer",
    "unmasking": "detectors.unmasking:Unmasking",
    "uoda": "detectors.uoda:Uoda",
    "vae": "detectors.vae:VariationalAutoencoder",
}


def detector_class(name: str) -> type[Detector]:
    """Import the class of catalogue id ``name``.

    Raises
    ------
    DataError
        If there is no such id; the message names the nearest one.
    """
    if name not in CATALOGUE:
        msg = f"no detector {name!r}{nearest(name, CATALOGUE)}; see 'eddy detectors'"
        raise DataError(msg)
    module, _, attribute = CATALOGUE[name].partition(":")
    found: type[Detector] = getattr(importlib.import_module(module), attribute)
    return found


def create(name: str, *, seed: int = 0, device: str = "cpu", **settings: Any) -> Detector:
    """Make an unfitted detector.

    >>> create("pca", seed=0, components=2)
    <pca seed=0 on cpu, not fitted>
    """
    return detector_class(name)(seed=seed, device=device, **settings)


def from_files(files: dict[str, bytes], where: str, *, device: str = "cpu") -> Detector:
    """Rebuild a detector from checked files (:func:`detectors.artefact.read`)."""
    try:
        description = msgspec.json.decode(files[DESCRIPTION], type=Description)
        weights = files[WEIGHTS]
    except (KeyError, msgspec.DecodeError) as error:
        msg = f"{where}: not a detector ({error}); fit the model again"
        raise ArtefactError(msg) from error
    settings = msgspec.json.decode(description.config, type=dict[str, Any])
    detector = create(description.detector, seed=description.seed, device=device, **settings)
    return detector.restore(description, weights)


def load(path: str | Path, *, device: str = "cpu") -> Detector:
    """Read a detector written by :meth:`detectors.detector.Detector.save`.

    Raises
    ------
    ArtefactError
        If a file is missing or was altered, or belongs to another detector.
    """
    return from_files(artefact.read(Path(path)), str(path), device=device)
