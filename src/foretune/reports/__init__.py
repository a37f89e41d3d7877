"""Reports: what runs came to, as a page, as tables and as figures."""
