"""Ficl 3.03 as FreeBSD's loader builds it: codes, flags, sizes and the places of things in memory
(stand/ficl/ficl.h, stand/ficl/amd64/sysdep.h, stand/common/interp_forth.c)."""

from __future__ import annotations

# Exit codes of vmThrow
VM_INNEREXIT = -256
VM_OUTOFTEXT = -257
VM_RESTART = -258
VM_USEREXIT = -259
VM_ERREXIT = -260
VM_ABORT = -1
VM_ABORTQ = -2
VM_QUIT = -56
BF_PARSE = 100

# Flags of a word
FW_DEFAULT = 0
FW_IMMEDIATE = 1
FW_COMPILE = 2
FW_SMUDGE = 4
FW_ISOBJECT = 8
FW_COMPIMMED = FW_IMMEDIATE | FW_COMPILE

INTERPRET, COMPILE = 0, 1
FICL_TRUE, FICL_FALSE = -1, 0

CELL = 8  # bytes
CELL_BITS = 64
CELL_MIN, CELL_MAX = -(1 << 63), (1 << 63) - 1
CELL_MASK = (1 << 64) - 1
FICL_DEFAULT_STACK = 128  # cells, each of both stacks
FICL_DEFAULT_VOCS = 16
FICL_DEFAULT_ENV = 260  # cells
FICL_MAX_LOCALS = 16
FICL_MAX_PARSE_STEPS = 8
FICL_USER_CELLS = 16
FICL_STRING_MAX = 255
FICL_VER = "3.03"
FICL_VER_MAJOR, FICL_VER_MINOR = 3, 3
FICL_ROBUST = 2
HASHSIZE = 241
BF_DICTSIZE = 30000  # cells
nFICLNAME = 31
nPAD = 256
LINE_BUFFER = 256  # interp_include, ficlExecFD

# struct ficl_word: link, hash, flags, nName, name, code, then the parameters; in bytes
WORD_FLAGS, WORD_NNAME, WORD_NAME, WORD_CODE, WORD_PARAM = 10, 11, 16, 24, 32
WORD_SIZE = 40  # with its first parameter

# Memory.  Nothing lies below PAGE, so that 0 and small numbers are no addresses.
PAGE = 4096
STATE = 0x1000
BASE = 0x1008
SOURCE_ID = 0x1010
TO_IN = 0x1018
USER = 0x1020  # FICL_USER_CELLS
PAD = 0x10A0  # nPAD bytes and a margin: # and HOLD count modulo 256
VM_START, VM_END = STATE, PAD + nPAD  # what CATCH puts back
DICT_THRESHOLD = 0x1300
DICT_INCREASE = 0x1308
NUSER = 0x1310
SPAN = 0x1318
SLASH_DUMP = 0x1320
TAGS = 0x1600  # the names of control structures, by whose addresses they are known
INPUT = 0x1800  # the line typed at the prompt
INPUT_SIZE = 1024
INTERP = 0x1E00  # the outer interpreter's loop, as a return address
EXIT_INNER = 0x1E10  # the end of a word run by CATCH, likewise
DICTIONARY = 0x2000
DICTIONARY_SIZE = BF_DICTSIZE * CELL + 0x1000  # the hash table's margin (dictCreateHashed)
HEAP = 0x40000
ARENA_SIZE = 16 << 20

TAG_NAMES = ("do", "colon", "leave", "target", "origin", "case", "of", "fallthrough")

# Kinds of words that scripts define (ficl's code pointers); no word can have such a name
COLON_WORD = "colon definition"
CONSTANT_WORD = "a constant"
TWO_CONSTANT_WORD = "a double constant"
VARIABLE_WORD = "a variable"
CREATED_WORD = "made by create"
DOES_WORD = "made by does>"
USER_WORD = "a user variable"
LIST_WORD = "a wordlist"
VOCABULARY_WORD = "a vocabulary"
MARKER_WORD = "a marker"
COMMAND_WORD = "a command"
LOCAL_WORD = "a local"
TWO_LOCAL_WORD = "a double local"
