"""The studio: pictures edited, and masks drawn, in the browser.

``session`` is what a tab holds and does and knows no page; ``page`` is the page; ``serve`` puts it on 127.0.0.1.
"""
