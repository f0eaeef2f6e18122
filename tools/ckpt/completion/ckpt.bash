# SPDX-License-Identifier: MIT
# Completion of ckpt for bash. The names of the options come from the program itself, so that they cannot be outdated.
_ckpt()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command='' word values
	local commands='dump pre-dump dedup restore check inspect verify page-server lazy-pages lock unlock cpuinfo service swrk'

	for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
		case " $commands " in *" $word "*) command=$word; break ;; esac
	done
	COMPREPLY=()
	# --name=value comes in three words
	if [[ $cur == = ]]; then
		cur=''
	elif [[ $prev == = ]]; then
		prev=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	case $prev in
	-t | --tree)
		COMPREPLY=($(compgen -W "$(command ps -eo pid=)" -- "$cur"))
		return ;;
	-D | -W | --images-dir | --work-dir | --prev-images-dir)
		compopt -o filenames
		COMPREPLY=($(compgen -d -- "$cur"))
		return ;;
	--feature)
		COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" check 2>/dev/null | awk '$1 == "ok" || $1 == "missing" { print $2 }')" -- "$cur"))
		return ;;
	--*)
		values=$("${COMP_WORDS[0]}" $command --list-values 2>/dev/null | awk -v name="$prev" '$1 == name { $1 = ""; print }')
		if [[ -n $values ]]; then
			COMPREPLY=($(compgen -W "$values" -- "$cur"))
			return
		fi ;;
	esac
	if [[ $command == unlock && $cur != -* ]]; then
		COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" unlock --list 2>/dev/null | awk '{ print $1 }')" -- "$cur"))
	elif [[ -z $command && $cur != -* ]]; then
		COMPREPLY=($(compgen -W "$commands" -- "$cur"))
	elif [[ $cur == -* ]]; then
		COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" $command --list-options 2>/dev/null)" -- "$cur"))
		[[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
	else
		compopt -o filenames
		COMPREPLY=($(compgen -f -- "$cur"))
	fi
	return 0
}
complete -F _ckpt ckpt
