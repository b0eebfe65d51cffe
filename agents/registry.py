"""Models on the storage: ``models/<stream>/<route>/<id>/`` and a pointer to the champion."""

from __future__ import annotations

import msgspec

from connectors.storage import Storage
from detectors import artefact
from detectors.model import Model
from schemas.errors import ArtefactError

POINTER = "champion.json"


class Pointer(msgspec.Struct, frozen=True):
    """Which artefact speaks for a route, and which one did before."""

    artefact_id: str
    previous: str | None = None


class Registry:
    """Saves, finds and loads the models of all routes."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def save(self, model: Model) -> str:
        """Write a model, unless it is there already; return its artefact id."""
        layout = model.description.layout
        where = self._path(layout.stream, layout.route, model.model_id)
        if f"{where}/{artefact.MANIFEST}" not in self._storage.list(where):
            self._storage.write_all(where, artefact.pack(model.to_files()))
        return model.model_id

    def load(self, stream: str, route: str, artefact_id: str, *, device: str = "cpu") -> Model:
        """Read a model.

        Raises
        ------
        ArtefactError
            If it is not there, incomplete, or altered.
        """
        where = self._path(stream, route, artefact_id)
        model = Model.from_files(self._storage.read_all(where), where, device=device)
        if model.model_id != artefact_id:
            msg = f"{where}: holds model {model.model_id}; restore the directory or fit again"
            raise ArtefactError(msg)
        return model

    def promote(self, stream: str, route: str, artefact_id: str) -> None:
        """Make a model the champion of its route."""
        before = self.champion(stream, route)
        pointer = Pointer(artefact_id, before if before != artefact_id else None)
        name = f"models/{stream}/{route}/{POINTER}"
        self._storage.write(name, msgspec.json.encode(pointer))

    def champion(self, stream: str, route: str) -> str | None:
        """Return the artefact id of the champion of a route, if there is one."""
        name = f"models/{stream}/{route}/{POINTER}"
        if name not in self._storage.list(f"models/{stream}/{route}"):
            return None
        return msgspec.json.decode(self._storage.read(name), type=Pointer).artefact_id

    def champions(
        self, routes: list[tuple[str, str]], *, device: str = "cpu"
    ) -> dict[tuple[str, str], Model]:
        """Load the champions of routes; a route without one is left out."""
        found = {}
        for stream, route in routes:
            artefact_id = self.champion(stream, route)
            if artefact_id is not None:
                found[stream, route] = self.load(stream, route, artefact_id, device=device)
        return found

    def ids(self, stream: str, route: str) -> list[str]:
        """List the artefact ids of a route."""
        names = self._storage.list(f"models/{stream}/{route}")
        return sorted({name.split("/")[3] for name in names if name.endswith(artefact.MANIFEST)})

    def _path(self, stream: str, route: str, artefact_id: str) -> str:
        return f"models/{stream}/{route}/{artefact_id}"
