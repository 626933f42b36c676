module github.com/rushteam/reckit

go 1.24.0
