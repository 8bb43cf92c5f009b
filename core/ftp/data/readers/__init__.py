"""Readers of data files, a module for each family of formats; `ftp.data.files` chooses among them.

A reader takes the file, its bytes as a stream that is unpacked already, and the options of the source; it yields rows.
"""
