from lib.study.sweep import main

main()
