-- Scripts as FreeBSD 14 to 16 have them.
return {modern = true, timeout_row = 24}
