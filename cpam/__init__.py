"""How CPAM edits, and the ground that every attention-based editor stands on."""

if __name__ == "cpam":  # imported by its folder's name, from a checkout
    from cpam_bench import checkout

    checkout.alias()
