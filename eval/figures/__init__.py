"""The paper's figures, of a run."""
