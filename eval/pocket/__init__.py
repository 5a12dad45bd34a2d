"""How the pocket parts were made: scenes in, trained weights out.

Every trainer is a module with a ``train`` function, is seeded, shows its progress, and continues from its last
checkpoint when it is started again (``cpam-bench pocket train vae|unet|clip|classifier``).
"""
