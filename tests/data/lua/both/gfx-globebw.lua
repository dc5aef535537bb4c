return {graphic = {
	"   .--.   ",
	"  ( () )  ",
	"   '--'   ",
}}
