"""From images to spots: readers, centre, background, spot finding, distortion, calibration."""
