"""Images and their labels: digits in clutter, folders, TensorFlow Datasets; preprocessing, and batches decoded ahead."""
