"""From samples and editors to a store of edits: what is handed out, to whom, and what comes back."""
