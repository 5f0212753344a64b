"""Result files of a verification run, and the page, table and figures made from them."""
