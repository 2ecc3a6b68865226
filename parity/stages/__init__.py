"""One module per stage of the flow; each writes its goldens from an oracle."""
