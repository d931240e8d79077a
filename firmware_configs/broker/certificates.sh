#!/bin/sh
# A laboratory's own certificate authority, for the broker and its boards.
#   certificates.sh FOLDER ca            make the authority, once; keep ca.key on no board and not on the broker.
#                                        Afterwards: say when it and each certificate end
#   certificates.sh FOLDER broker HOST   make broker.pem and broker.key for the broker's name or address
#   certificates.sh FOLDER page HOST     make page.pem and page.key for the fleet server's page
#   certificates.sh FOLDER board NAME    make NAME.pem and NAME.key; NAME is the board's mqtt.board, or fleet
#   certificates.sh FOLDER renew NAME    make both anew before they end (5 years); NAME may be broker or page
#   certificates.sh FOLDER revoke NAME   NAME's certificate counts no longer: copy crl.pem to the broker
# After any copy to the broker: systemctl restart mosquitto, for the list of revocations is read at the start only.
set -eu
umask 077

fail() { echo "certificates.sh: $1" >&2; exit "$2"; }
usage="usage: certificates.sh FOLDER ca | broker HOST | page HOST | board NAME | renew NAME | revoke NAME"
[ $# -ge 2 ] || fail "$usage" 2
folder=$1 what=$2 name=${3:-} again="certificates.sh $1"
command -v openssl >/dev/null || fail "openssl is not installed; on Debian: apt install openssl" 1
[ "$what" = ca ] || [ -f "$folder/ca.key" ] || fail "$folder has no authority; make it with: $again ca" 2
case "$what:$name" in
    ca:) ;;
    broker:?* | page:?*)
        expr "$name" : '[A-Za-z0-9.:-]*$' >/dev/null || fail "\"$name\" is no host name or address." 2 ;;
    board:?* | renew:?* | revoke:?*)
        expr "$name" : '[A-Za-z0-9_-]*$' >/dev/null || fail "A name has letters, digits, - and _ only: \"$name\"." 2
        case "$what:$name" in
            *:ca | *:crl | board:broker | board:page) fail "\"$name\" is taken; choose another name." 2 ;;
        esac ;;
    *) fail "$usage" 2 ;;
esac
mkdir -p "$folder" && cd "$folder"

said() { "$@" >openssl.log 2>&1 || { cat openssl.log >&2; fail "openssl failed, see above." 1; }; }
key() { said openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out "$1"; }
crl() { said openssl ca -batch -config openssl.cnf -gencrl -out crl.pem.new && mv crl.pem.new crl.pem; }
to_broker="to the broker's /etc/mosquitto/bloodedge; systemctl restart mosquitto."
ends() { openssl x509 -noout -enddate -in "$1" | cut -d= -f2; }

# index.txt: state, end, revoked at, serial number, file, subject. A certificate counts (V) or was revoked (R).
# certified STATE FILE: (serial number, common name) of each that was made as FILE.pem.
certified() {
    awk -F '\t' -v state="$1" -v name="$2" '{ cn = substr($6, 5); file = cn; sub(/ .*/, "", file) }
        $1 == state && (name == "" || file == name) { print $4, cn }' index.txt
}
valid() { certified V "$1"; }
common_name() { valid "$1" | tail -n 1 | cut -d ' ' -f 2-; }
# revoke SERIAL_NUMBERS
revoke() { for serial in $1; do said openssl ca -batch -config openssl.cnf -revoke "issued/$serial.pem"; done; }

# make FILE COMMON_NAME: FILE.pem and FILE.key, whole or not at all.
make() {
    case "$2" in
        *\ *)
            host=${2#* } kind=DNS
            case "$host" in *:*) kind=IP ;; *[!0-9.]*) ;; *) kind=IP ;; esac
            printf 'extendedKeyUsage = serverAuth\nsubjectAltName = %s:%s\n' "$kind" "$host" >extensions ;;
        *) echo "extendedKeyUsage = clientAuth" >extensions ;;
    esac
    key "$1.key.new"
    said openssl req -new -key "$1.key.new" -subj "/CN=$2" -out "$1.csr"
    echo "unique_subject = no" >index.txt.attr # a renewed one and the one before it count both, for a moment
    said openssl ca -batch -notext -config openssl.cnf -in "$1.csr" -out "$1.pem.new" -extfile extensions
}
put() { mv "$1.key.new" "$1.key" && mv "$1.pem.new" "$1.pem" && rm -f "$1.csr" extensions openssl.log; }

# issue FILE COMMON_NAME: a certificate that counts is never doubled or replaced.
issue() {
    had=$(common_name "$1")
    [ -z "$had" ] || fail "$had has a certificate; renew it: $again renew $1, or revoke it first: $again revoke $1" 1
    make "$1" "$2"
    put "$1"
    echo "$folder/$1.pem, $folder/$1.key: end $(ends "$1.pem")"
}

make_authority() {
    mkdir -p issued && : >index.txt && echo 01 >crlnumber
    cat >openssl.cnf <<CONFIG
[ca]
default_ca = laboratory
[laboratory]
database = index.txt
new_certs_dir = issued
rand_serial = yes
crlnumber = crlnumber
certificate = ca.pem
private_key = ca.key
default_md = sha256
default_days = 1825
default_crl_days = 3650
policy = named
[named]
commonName = supplied
[req]
distinguished_name = named_by_option
x509_extensions = authority
[named_by_option]
[authority]
basicConstraints = critical, CA:true, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
CONFIG
    key ca.key.new
    said openssl req -x509 -config openssl.cnf -key ca.key.new -days 7300 -subj "/CN=bloodedge laboratory" -out ca.pem
    mv ca.key.new ca.key
}

case "$what" in
    ca)
        [ -f ca.key ] || make_authority
        [ -f crl.pem ] || crl
        rm -f openssl.log
        echo "$folder/ca.pem: ends $(ends ca.pem)"
        until=$(openssl crl -noout -nextupdate -in crl.pem | cut -d= -f2)
        echo "$folder/crl.pem: ends $until; any renew or revoke makes it anew"
        valid "" | while read -r serial common; do
            echo "${common%% *}: ends $(ends "issued/$serial.pem"); before that: $again renew ${common%% *}"
        done ;;
    broker | page) issue "$what" "$what $name" ;;
    board) issue "$name" "$name" ;;
    renew)
        common=$(common_name "$name") old=$(valid "$name" | cut -d ' ' -f 1)
        [ -n "$common" ] || fail "$folder holds no certificate of $name." 2
        make "$name" "$common"
        revoke "$old"
        crl
        put "$name"
        echo "$folder/$name.pem, $folder/$name.key: end $(ends "$name.pem")"
        case "$name" in
            broker) echo "Copy both and $folder/crl.pem $to_broker" ;;
            page)
                echo "Copy both to the fleet server's /etc/bloodedge-fleet;" \
                    "systemd-tmpfiles --create; systemctl restart bloodedge-fleet." ;;
            *)
                echo "First copy both to where $name has the old ones, and restart what runs there."
                echo "Then, which ends the old certificate, copy $folder/crl.pem $to_broker" ;;
        esac ;;
    revoke)
        old=$(valid "$name" | cut -d ' ' -f 1)
        # Revoked only: an earlier one that may have broken off before its list was made.
        [ -n "$old$(certified R "$name")" ] || fail "$folder holds no certificate of $name." 2
        revoke "$old"
        crl
        rm -f openssl.log "$name.pem" "$name.key"
        echo "Copy $folder/crl.pem $to_broker" ;;
esac
