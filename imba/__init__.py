"""What is edited: samples, data sets, masks, and the embedded benchmark."""

if __name__ == "imba":  # imported by its folder's name, from a checkout
    from cpam_bench import checkout

    checkout.alias()
