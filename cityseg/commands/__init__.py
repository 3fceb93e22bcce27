"""What can be done with trained networks, one command a class; `cityseg.__main__` joins them."""
