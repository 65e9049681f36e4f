from lib.book.build import main

main()
