"""Predicts a boot: the PCR values after a change of kernel, command line, boot loader or Secure Boot variables.

`predict` the whole · `draft` a log being rewritten · `images` `uki` `direct` `grub` `variables` what each change does to it ·
`options` how a kernel's own stub sees its command line.
"""

from attestd.appraisal.predict.predict import PREDICTED, Change, Prediction, Running, predict

__all__ = ["PREDICTED", "Change", "Prediction", "Running", "predict"]
