"""Detectors measured on public labelled data that is not part of the project.

Each test prints a table of what it measured and asserts the least that must hold::

    EDDY_DATA=/path/to/data python -m pytest tests/realdata

``EDDY_DATA`` names a folder with one Parquet file for each data set, in its publisher's columns:
``hdfs/sessions_loghub``, ``unsw_nb15/unsw_nb15_82332``, ``kdd99/kddcup_10_percent`` and
``devnet/annthyroid_21feat_normalised``. The comparison with pyod needs the extra ``bench``.
"""
