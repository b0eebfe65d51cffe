"""How well detectors rank public labelled data, beside those of other libraries."""
