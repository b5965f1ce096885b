"""archbench: which architecture should read our images, and how sure can we be?"""

__version__ = "0.1.0"
