"""The enroller: admits hosts by their TPMs, and by an operator's word where a TPM says too little."""
