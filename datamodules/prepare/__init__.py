"""Getting a data set onto the disk: download, check, unpack safely, write the index of its splits."""
