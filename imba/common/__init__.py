"""What every package needs: files and folders written whole, places, hashes, plug-ins, labels."""
