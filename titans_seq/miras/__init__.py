"""The four choices of MIRAS: structure, attentional bias, retention gate, learning rule."""
