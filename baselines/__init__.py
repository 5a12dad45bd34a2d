"""The editors that CPAM is compared with, one module a method."""

if __name__ == "baselines":  # imported by its folder's name, from a checkout
    from cpam_bench import checkout

    checkout.alias()
