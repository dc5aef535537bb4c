-- Scripts as FreeBSD 12 and 13 have them.
return {modern = false, timeout_row = 23}
