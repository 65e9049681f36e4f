"""The engine of the study: augmentation, training, attacks, stress, influence and their records."""
