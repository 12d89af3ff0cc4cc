"""The only room that formats: reports in, terminal tables and HTML out.

words.py      how a figure is written
terminal.py   tables for a console: narrow ones, and ones without colour
html.py       the page, its style (style.css), tables and tiles; plots.py: its SVG (plots.css)
others        one module a report: what to say, in the terminal and on a page
"""
