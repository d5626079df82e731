"""LoRA adapters over one base model: `folder` reads them, `store` keeps them, `step` adds them to a step.

An adapter changes a linear map from W to W + scale·B·A, with A [rank, in] and B [out, rank]. W stays as it is
for everyone, and each request's rows get scale·B·A·x on top of W·x. So one batch serves any number of
adapters and the base beside them, and a request without one computes exactly what it would without adapters.

Keys and values depend on the adapter that computed them: a prefix's pages are found only by requests with the
same adapter (`PagePool.root`).
"""
