"""The pages, a module each.

Not `pages/`: Streamlit runs the files of a folder of that name on their own.
"""
