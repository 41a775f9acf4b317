#!/bin/sh
# Installs imdsfw on a host that has no package for it, and takes it away.
#
#   install.sh BINARY        the program, its policies, manual and service files
#   install.sh --uninstall   all that, and the rules; not the config, the log
#                            and the policies of this host, nor the accounts
#
# Nothing is started: from the moment the rules are loaded, users are refused.
# With DESTDIR set, files go below it and this host is left alone.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR-}
accounts="imdsfw imdsfw-witness"

main() {
    case ${1-} in
    --uninstall) uninstall ;;
    "" | -*) usage ;;
    *) install_all "$1" ;;
    esac
}

usage() {
    echo "usage: install.sh BINARY | --uninstall" >&2
    exit 2
}

# What belongs to the program and is the same on every host.
install_all() {
    # Its own pages and completions; also proves that it runs here.
    "$1" --version >/dev/null
    put 755 "$1" /usr/sbin/imdsfw
    put 644 "$here/../policies/multi-user.toml" /usr/lib/imdsfw/policy.d/90-base.toml
    for policy in "$here"/../policies/*.toml; do
        put 644 "$policy" "/usr/share/doc/imdsfw/examples/$(basename "$policy")"
    done
    for policy in "$here"/../policies/agents/*.toml; do
        put 644 "$policy" "/usr/share/doc/imdsfw/examples/agents/$(basename "$policy")"
    done
    put 644 "$here/schema/config.json" /usr/share/imdsfw/schema/config.json
    put 644 "$here/schema/policy.json" /usr/share/imdsfw/schema/policy.json
    for file in "$here"/monitoring/*; do
        put 644 "$file" "/usr/share/doc/imdsfw/examples/monitoring/$(basename "$file")"
    done
    put 644 "$here/logrotate" /etc/logrotate.d/imdsfw
    # A config of this host stays as it is.
    [ -e "$root/etc/imdsfw/imdsfw.toml" ] ||
        put 644 "$here/imdsfw.toml" /etc/imdsfw/imdsfw.toml
    mkdir -p "$root/etc/imdsfw/policy.d"
    "$1" generate man "$root/usr/share/man/man8"
    completions=$(mktemp -d)
    "$1" generate completions "$completions"
    put 644 "$completions/imdsfw.bash" /usr/share/bash-completion/completions/imdsfw
    put 644 "$completions/imdsfw.fish" /usr/share/fish/vendor_completions.d/imdsfw.fish
    put 644 "$completions/_imdsfw" /usr/share/zsh/vendor-completions/_imdsfw
    rm -r "$completions"
    install_services
    [ "$root" ] || add_accounts
    echo "installed; next: imdsfw check, then start the service, as README.md says"
}

install_services() {
    if command -v systemctl >/dev/null; then
        for unit in imdsfw.service imdsfw.socket imdsfw-control.socket imdsfw-stream.socket \
            imdsfw-rules.service imdsfw-witness.service; do
            put 644 "$here/systemd/$unit" "/usr/lib/systemd/system/$unit"
        done
        put 644 "$here/systemd/imdsfw.sysusers" /usr/lib/sysusers.d/imdsfw.conf
        put 644 "$here/systemd/imdsfw.tmpfiles" /usr/lib/tmpfiles.d/imdsfw.conf
    elif command -v openrc-run >/dev/null; then
        for service in imdsfw imdsfw-rules; do
            put 755 "$here/openrc/$service" "/etc/init.d/$service"
        done
    fi
}

add_accounts() {
    for account in $accounts; do
        getent passwd "$account" >/dev/null && continue
        if command -v useradd >/dev/null; then
            useradd --system --user-group --no-create-home --home-dir / \
                --shell /usr/sbin/nologin "$account"
        else
            # BusyBox.
            addgroup -S "$account"
            adduser -S -D -H -h / -s /sbin/nologin -G "$account" "$account"
        fi
    done
}

uninstall() {
    if [ -z "$root" ]; then
        stop
        # Rules without a program would refuse everybody for good.
        if [ -x /usr/sbin/imdsfw ]; then
            /usr/sbin/imdsfw rules remove
        fi
    fi
    rm -f "$root/usr/sbin/imdsfw" \
        "$root/etc/logrotate.d/imdsfw" \
        "$root/etc/init.d/imdsfw" \
        "$root/etc/init.d/imdsfw-rules" \
        "$root/usr/lib/systemd/system/imdsfw.service" \
        "$root/usr/lib/systemd/system/imdsfw.socket" \
        "$root/usr/lib/systemd/system/imdsfw-control.socket" \
        "$root/usr/lib/systemd/system/imdsfw-stream.socket" \
        "$root/usr/lib/systemd/system/imdsfw-rules.service" \
        "$root/usr/lib/systemd/system/imdsfw-witness.service" \
        "$root/usr/lib/sysusers.d/imdsfw.conf" \
        "$root/usr/lib/tmpfiles.d/imdsfw.conf" \
        "$root/usr/share/bash-completion/completions/imdsfw" \
        "$root/usr/share/fish/vendor_completions.d/imdsfw.fish" \
        "$root/usr/share/zsh/vendor-completions/_imdsfw" \
        "$root"/usr/share/man/man8/imdsfw.8 \
        "$root"/usr/share/man/man8/imdsfw-*.8
    rm -rf "$root/usr/lib/imdsfw" "$root/usr/share/imdsfw" "$root/usr/share/doc/imdsfw"
    echo "removed; left: /etc/imdsfw, /var/lib/imdsfw, /var/log/imdsfw, and whose they are"
}

# The watcher first, which would restore the rules, and whose reports would have
# the daemon started again.
stop() {
    if [ -d /run/systemd/system ]; then
        for unit in imdsfw-rules.service imdsfw.socket imdsfw-control.socket \
            imdsfw-stream.socket imdsfw.service imdsfw-witness.service; do
            systemctl disable --now "$unit" || true
        done
    elif command -v rc-service >/dev/null; then
        for service in imdsfw-rules imdsfw; do
            rc-service --ifstarted "$service" stop
            rc-update --quiet --all delete "$service" >/dev/null 2>&1 || true
        done
    fi
}

# put MODE FILE PATH
put() {
    mkdir -p "$(dirname "$root$3")"
    # Beside it and then renamed: a program that runs cannot be written to.
    cp "$2" "$root$3.new"
    chmod "$1" "$root$3.new"
    mv "$root$3.new" "$root$3"
}

main "$@"
