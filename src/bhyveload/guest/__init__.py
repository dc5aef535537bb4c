"""Work in a guest by its serial console: log in, run commands, learn their exit status, bring files in and out.

    prompts: what a console shows     typed: what to type     output: a command's output and status
    watch: panics and patterns        session: all of it on a running guest

The first four know only bytes.
"""
