"""From images to class probabilities, as the papers test; and what a trained run is good for."""
