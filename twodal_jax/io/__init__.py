"""Readers and writers of file formats: images, NumPy, MATLAB, pickle, PyTorch and text.

The readers accept files from untrusted sources: they execute nothing, bound memory and time, and raise
`untrusted.BrokenFileError` (`images.SkipFace` for images) for anything else. NumPy's and SciPy's own readers crash or
exhaust memory on some damaged files. Formats: JPEG, PNG, BMP, WebP and TIFF (`images`), .npy and .npz (`npy`), MATLAB 5
.mat (`mat`), pickles of arrays (`pickle_arrays`), PyTorch's .pth and .tar (`torch_checkpoint`), CSV (`text`).
May import `geometry`.
"""
