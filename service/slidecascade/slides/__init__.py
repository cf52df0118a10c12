"""Where pixels come from: slides, uploads, and regions of them at any resolution."""
