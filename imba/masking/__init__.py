"""The mask input module (Section 4.4, Figure 3): how a user says what region to edit.

A mask comes from a file, from what is drawn (polygons, brush strokes), from clicks and boxes (SAM, or OpenCV's GrabCut
without its weights), or from words (CLIPSeg; on any backbone also its cross-attention,
:mod:`cpam_bench.cpam.words`).  Each way gives a ``MadeMask``: the mask and the record of how it was made.

Coordinates are pixels of the picture as stored, x to the right and y down, counted from 0 at the upper left.
"""
