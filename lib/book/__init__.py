"""The book: chapters executed and rendered, what they show, and the same as slides.

`charts` and `show` make figures, pictures and tables (`figure` is what a chart is), `build`
executes and renders, `slides` makes the decks, `readme` the README's results.
"""
