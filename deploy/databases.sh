#!/bin/sh
# Run once by the PostgreSQL image when its volume is empty: a database for each server.
set -eu
for name in prefect mlflow; do
  psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres --command "CREATE DATABASE $name"
done
