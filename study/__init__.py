"""The cross-validation study around `cityseg`: schedule, record, analyse."""
