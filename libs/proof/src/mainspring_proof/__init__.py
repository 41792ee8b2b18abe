"""Signed manifests of model versions and releases.

`keys` holds who signs and whom to believe, `bundles` signs and verifies, `statements` says what is signed, `folders`
checks a folder of files against its manifest without asking anybody.
"""
