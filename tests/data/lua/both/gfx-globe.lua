return {requires_color = true, graphic = {
	"\027[31m   .--.   \027[39m",
	"\027[31m  ( () )  \027[39m",
	"\027[31m   '--'   \027[39m",
}}
