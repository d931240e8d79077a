#!/bin/sh
# A laboratory's own certificate authority, for the broker and its boards.
#   certificates.sh FOLDER ca            make the authority, once; keep ca.key on no board and not on the broker
#   certificates.sh FOLDER broker HOST   make broker.pem and broker.key for the broker's name or address
#   certificates.sh FOLDER board NAME    make NAME.pem and NAME.key; NAME is the board's mqtt.board, or fleet
#   certificates.sh FOLDER revoke NAME   NAME's certificate counts no longer: copy crl.pem to the broker and restart it
set -eu
umask 077

fail() { echo "certificates.sh: $1" >&2; exit "$2"; }
usage="usage: certificates.sh FOLDER ca | broker HOST | board NAME | revoke NAME"
[ $# -ge 2 ] || fail "$usage" 2
folder=$1 what=$2 name=${3:-}
command -v openssl >/dev/null || fail "openssl is not installed; on Debian: apt install openssl" 1
[ "$what" = ca ] || [ -f "$folder/ca.key" ] || fail "$folder has no authority; make it with: certificates.sh $folder ca" 2
case "$what:$name" in
    ca:) ;;
    broker:?*) expr "$name" : '[A-Za-z0-9.:-]*$' >/dev/null || fail "\"$name\" is no host name or address." 2 ;;
    board:?* | revoke:?*)
        expr "$name" : '[A-Za-z0-9_-]*$' >/dev/null || fail "A name has letters, digits, - and _ only: \"$name\"." 2
        case "$name" in ca | broker | crl) [ "$what" = revoke ] || fail "\"$name\" is taken; choose another name." 2 ;; esac ;;
    *) fail "$usage" 2 ;;
esac
mkdir -p "$folder" && cd "$folder"

said() { "$@" >openssl.log 2>&1 || { cat openssl.log >&2; fail "openssl failed, see above." 1; }; }
key() { said openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out "$1"; }
crl() { said openssl ca -batch -config openssl.cnf -gencrl -out crl.pem.new && mv crl.pem.new crl.pem; }
# issue FILE COMMON_NAME EXTENSIONS: an unrevoked certificate of that name is never doubled.
issue() {
    ! grep -q "^V.*/CN=$2\$" index.txt || fail "$2 has a certificate; revoke it first." 1
    key "$1.key"
    said openssl req -new -key "$1.key" -subj "/CN=$2" -out "$1.csr"
    printf '%s\n' "$3" >extensions
    said openssl ca -batch -notext -config openssl.cnf -in "$1.csr" -out "$1.pem" -extfile extensions
    rm -f "$1.csr" extensions openssl.log
    echo "$folder/$1.pem, $folder/$1.key"
}

case "$what" in
    ca)
        [ ! -f ca.key ] || fail "$folder has an authority; remove the folder if it is to be replaced." 1
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
unique_subject = yes
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
        crl
        rm -f openssl.log
        echo "$folder/ca.pem" ;;
    broker)
        kind=DNS
        case "$name" in *:*) kind=IP ;; *[!0-9.]*) ;; *) kind=IP ;; esac
        issue broker "broker $name" "extendedKeyUsage = serverAuth
subjectAltName = $kind:$name" ;;
    board) issue "$name" "$name" "extendedKeyUsage = clientAuth" ;;
    revoke)
        [ -f "$name.pem" ] || fail "$folder holds no certificate of $name." 2
        said openssl ca -batch -config openssl.cnf -revoke "$name.pem"
        crl
        rm -f openssl.log "$name.pem" "$name.key"
        echo "$folder/crl.pem" ;;
esac
