"""Makes a manifest for a folder of pictures: looks at them, decides how to train on them, and says why in comments."""
