"""Running editors on data, measuring what they make, and showing it."""

if __name__ == "eval":  # imported by its folder's name, from a checkout
    from cpam_bench import checkout

    checkout.alias()
