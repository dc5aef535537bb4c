# Completion of bhyvedisk(8) for fish.

complete -c bhyvedisk -n 'not __fish_seen_subcommand_from info ls cat cp checksum' -f -a 'info ls cat cp checksum'
complete -c bhyvedisk -n '__fish_seen_subcommand_from info ls cat cp checksum' -F
complete -c bhyvedisk -s d -l disk -r -F -d 'a disk of the guest'
complete -c bhyvedisk -l partition -x -d 'the partition to look at'
complete -c bhyvedisk -l dataset -x -d 'the ZFS dataset to look at'
complete -c bhyvedisk -l allow-backing -d 'follow the names of backing files'
complete -c bhyvedisk -l timeout -x -d 'give up after that long'
complete -c bhyvedisk -l user -x -a '(__fish_complete_users)' -d 'whom the reader runs as'
complete -c bhyvedisk -l require-sandbox -d 'fail where the host cannot confine the reader'
complete -c bhyvedisk -l no-sandbox -d 'do not confine the reader'
complete -c bhyvedisk -l json -d 'info as JSON'
complete -c bhyvedisk -l svg -r -F -d 'info as a picture'
complete -c bhyvedisk -l html -r -F -d 'info as a page'
complete -c bhyvedisk -s l -d 'ls: all about each file'
complete -c bhyvedisk -s R -d 'ls: directories below, too'
complete -c bhyvedisk -l help -d 'how it is used'
complete -c bhyvedisk -l version -d 'its version'
