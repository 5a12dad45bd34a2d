"""The embedded benchmark: the renderer of its scenes, its tasks, and clicks to check segmenters with."""
