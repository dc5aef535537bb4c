"""What tests share: disks, kernels, guests and the programs as people run them."""
