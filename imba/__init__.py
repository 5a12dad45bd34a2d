"""What is edited: samples, data sets, the builder of IMBA, the embedded benchmark and the renderer of its scenes."""
