"""Blind rating: people choose among the pictures of a run, in the browser, without knowing which variant drew which."""
